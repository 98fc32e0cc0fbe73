{ services.firstlight.enable = true; }
