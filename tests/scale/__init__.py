"""Other people's routers, Ray and Helm with our servers (`make ray`, `make k8s`)."""
