"""The page of ``rprop-lab serve`` (extra ``serve``)."""
