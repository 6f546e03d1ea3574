"""The dress rehearsal: table=paper run for real against stand-ins on loopback. Nothing in focalpo/ or recipes/ knows."""
