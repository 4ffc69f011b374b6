"""Tests of the panels, a folder further down, share `report_records` too."""
