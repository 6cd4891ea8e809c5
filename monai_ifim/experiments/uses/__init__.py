"""What F is good for beside simpler scores: errors, changed images, flips, images to label."""
