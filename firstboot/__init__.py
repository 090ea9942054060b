"""The Pi's side of piflash: Python 3.7, standard library only, ships as one zipapp."""
