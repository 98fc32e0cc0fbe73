{ services.firstlight.enabel = true; }
