"""From sealed stage folders to the table: numbers with intervals, their text in four formats, figures. No torch."""
