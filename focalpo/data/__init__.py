"""Preference data on its way in: file or hub dataset -> rows -> pairs of one shape -> checked pairs -> token ids."""
