"""Public benchmarks: SENSORIUM 2022 and 2023, and what Brain-Score is given. Nothing is trained here."""
