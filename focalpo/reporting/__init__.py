"""The report of a table run from sealed stage folders: numbers with intervals, four text formats, figures. No torch."""
