"""The routes: sync views, and one async view."""

from django.urls import path

from shop import views

urlpatterns = [
    path("carts/<str:user>/items/<slug:item>", views.add_item),
    path("carts/<str:user>/order", views.order),
    path("carts/<str:user>", views.cart),
    path("orders/<str:user>", views.orders),
]
