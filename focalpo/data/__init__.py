"""Preference data: file or hub dataset -> rows -> pairs of one schema -> checked pairs -> token ids."""
