//! Recorded cases: `fixtures/{rule}/{case}/evidence.json` and what is concluded from it.
