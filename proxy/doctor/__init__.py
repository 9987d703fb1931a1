"""``backstop doctor``: a deployment examined, end to end.

``command`` runs it and ``show`` shows it; each other module examines one thing
and gives results, green, yellow or red, each with its remedy.  What ``check``
finds is a part of it.  No mail is sent, and nothing is changed.
"""
