# What the recipe of contrib/yocto uses of OpenEmbedded-Core, so that it can be run without it.
