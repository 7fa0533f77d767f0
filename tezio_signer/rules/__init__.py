"""The rules, by subject. Which of them are asked, and in which order, says `policy.py`."""
