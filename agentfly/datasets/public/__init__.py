"""Public data sets of image editing, from the hub, from downloaded files, or from benchmark folders."""
