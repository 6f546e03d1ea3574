"""The dress rehearsal: the real table=paper on stand-ins on loopback. focalpo/ and recipes/ do not depend on it."""
