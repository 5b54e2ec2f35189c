"""What every proof and every recovery shares: fetch and decrypt a backup, restore it into a server."""
