"""What a training stage will need before it runs: memory by part, time, disk; told from settings and file headers.

No torch: `hanlin plan` stays quick. What only a machine can say (how fast it multiplies) is asked of a process of its
own (`probe`).
"""
