"""The laboratory behind ``rprop-lab``: data, models, training, comparisons, pictures (extra ``lab``)."""
