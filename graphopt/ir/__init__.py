"""Models as graphopt sees them: files, graphs, values, facts and edits."""
