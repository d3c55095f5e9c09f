"""How values, images and tables are written as text, HTML and TeX."""
