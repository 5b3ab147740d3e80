"""The generated world: one procedural world of solid objects that every kind of data is a view of.

`scene.sample(seed, split, index)` gives a `Scene`: a solid with pose over time, signed distance, colour,
normals and ray casting, from which any view can be made. `render` makes pictures of scenes,
`source.WorldSource` keeps views as files.
"""
