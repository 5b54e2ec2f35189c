"""What people are told: mails and reports, made of catalog rows."""
