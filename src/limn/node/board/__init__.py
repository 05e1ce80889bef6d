"""The board: web pages for the people in the room, and for the physicist afterwards."""
