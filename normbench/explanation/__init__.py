"""The report on one program: its launches, bytes, reasons and hints, as text, HTML and a picture."""
