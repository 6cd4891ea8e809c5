"""What a bundle's configuration or a pipeline names.

- ``components``: high-sensitivity and orthogonal component of one preprocessed image.
- ``prediction``: a component in the place of the prediction, for hosts that take one volume.
- ``invert``: components back on the grid of their file (``scan_grid``), compared with it.
- ``save``: components back on that grid, each written as one file.
- ``checks``: refusal of images that the network cannot take.
- ``single_slice``: volumes of one slice for a 2D network, slices for a 3D one, and back.
- ``traceable``: a bundle's preprocessing in a form that can be undone.
"""
