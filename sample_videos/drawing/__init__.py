"""What the scenes are drawn with: surfaces, figures, letters, light and cameras."""
