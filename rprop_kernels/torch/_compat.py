"""torch's wrapper around ``step`` (hooks, profiler), used only when someone looks."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import profiler
from torch.compiler import is_dynamo_compiling
from torch.optim import Optimizer
from torch.optim import optimizer as _torch_optimizer


@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch does not annotate it
def _uncompiled(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return step(*args, **kwargs)


def light(bare: Callable[..., Any]) -> Callable[..., Any]:
    """``bare`` in place of torch's ``profile_hook_step(bare)``, which costs more than a small step: that wrapper
    is used when someone looks, and none otherwise."""
    try:
        before_all = _torch_optimizer._global_optimizer_pre_hooks
        after_all = _torch_optimizer._global_optimizer_post_hooks
        _ = profiler._is_profiler_enabled
    except AttributeError:  # private names; without them torch wraps the step, as any other
        return bare
    bare.__qualname__ = bare.__qualname__.replace(bare.__name__, "step")  # the name that errors show
    bare.__name__ = "step"
    wrapped = Optimizer.profile_hook_step(bare)

    @functools.wraps(bare)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_dynamo_compiling():
            return _uncompiled(step, self, *args, **kwargs)
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or before_all
            or after_all
            or profiler._is_profiler_enabled
            or self._plain_step
        ) and type(self).step is step:  # a subclass that overrides step was wrapped by torch: there the hooks run
            return wrapped(self, *args, **kwargs)
        return bare(self, *args, **kwargs)

    step.hooked = True  # type: ignore[attr-defined]  # torch wraps what is not marked so
    return step
