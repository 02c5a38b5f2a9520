"""Tests of what needs no peer: timing, tables, the list of cases."""
