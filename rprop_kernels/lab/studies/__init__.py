"""The experiments of the other reports, one module a report; ``table.STUDIES`` lists them."""
