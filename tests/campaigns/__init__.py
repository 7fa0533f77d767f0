"""Long runs against faults and crashes: commands of their own, with a short form in the suite."""
