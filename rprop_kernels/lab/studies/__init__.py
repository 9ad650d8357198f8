"""The experiments of the other reports, one module a report; ``registry.STUDIES`` lists them."""
