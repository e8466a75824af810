"""Reads what comes from tenants' pods, files, buckets and code: never more than a limit, and never for ever.

Whatever a tenant can write is foreign: the answer of a pod, the name of an object, a file of a model, a row of data,
the text of an exception. Each module here reads one form of it, and refuses what exceeds a limit with a ValueError
whose message is the end of a sentence about the thing that was read ("is nested more than 200 levels deep").
"""
