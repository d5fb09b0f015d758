"""The composition root: builds the parts, joins them under one nursery, swaps snapshots, shuts down.

main        directories, lock, authority, programs; then the event loop
node        what runs inside the loop, and what the admin socket can ask of it
enroller    takes workloads in and out, step by step, undoing everything upon failure
reference   which network namespace is meant, and whether it is still there
state       what has to survive the agent: the enrolled workloads
records     connection records to file, metrics and memory
teardown    `down` when no agent is left to do it
"""
