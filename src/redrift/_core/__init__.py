"""Private foundations: linear algebra on small tables, quadrature, random numbers, errors."""
