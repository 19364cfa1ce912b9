"""The command line, `turnkeeper`. It needs the extra `cli`.

main.py     runs a command line, and turns what it raises into one line and an exit code
exits.py    the exit codes, and which error has which
verbs.py    every verb: its words, its examples, and where its function is
app.py      the verbs as cyclopts knows them, each imported when it is called
place.py    where the store is, and how it is opened
output.py   everything that is printed: tables, JSON, progress
plain.py    text made safe for a terminal
agents.py   finding MODULE:AGENT
remote.py   a server in place of a store
serving.py, serve.py, keys.py, chat.py, submitting.py, reading.py, control.py, life.py,
upkeep.py   the verbs
"""
