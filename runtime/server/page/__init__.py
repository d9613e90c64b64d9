"""The page at `/`: chat and an editor, from this server and no other host."""
