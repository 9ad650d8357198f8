/* The part in use of DLPack's C exchange table (DLPack 1.2, capsule "dlpack_exchange_api"). */
#ifndef RPROP_DLPACK_H
#define RPROP_DLPACK_H

#include <stdint.h>

typedef struct { uint32_t major, minor; } DLPackVersion;
typedef struct DLPackHeader { DLPackVersion version; struct DLPackHeader *previous; } DLPackHeader;

typedef struct {
    void *data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides; /* in elements; strides may be NULL: C-contiguous */
    uint64_t byte_offset;
} DLTensor;

typedef struct {
    DLPackHeader header;
    void *allocate, *managed_from_object, *managed_to_object;
    int (*read)(void *object, DLTensor *out); /* dltensor_from_py_object_no_sync */
    void *current_stream;
} DLPackExchange;

enum { DL_CPU = 1, DL_FLOAT = 2, DL_BFLOAT = 4, DL_BOOL = 6 };

#endif
