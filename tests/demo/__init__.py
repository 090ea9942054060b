"""`make demo`: the main job with no card and no download."""
