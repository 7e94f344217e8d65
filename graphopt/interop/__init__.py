"""Models in the forms of other libraries, in and out."""
