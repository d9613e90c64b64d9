"""What a server goes through: bad clients, endings, too little memory, clocks that jump."""
