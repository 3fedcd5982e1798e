"""Tasks with a right answer: exams and question files."""
