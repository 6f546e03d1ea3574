"""The dress rehearsal: table=paper for real, against stand-ins on loopback. Nothing in focalpo/ or recipes/ knows."""
