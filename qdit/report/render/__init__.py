"""Write values, images and tables as text, HTML and TeX."""
