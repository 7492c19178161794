"""The training loop and what it turns on: batches, packed rows, objectives, losses, schedule, selection, resume. Which data and
which model a stage trains is the stage's business."""
