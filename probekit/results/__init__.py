"""What every room writes its results with: intervals, measures, tables, findings, runs on disk."""
