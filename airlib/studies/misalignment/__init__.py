"""Study 1 of AIR: do images and texts move alike in CLIP space?"""
