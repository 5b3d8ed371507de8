# What the APKBUILD uses of Alpine's abuild, so that it can be run without it, by `busybox sh -e`:
# abuild.sh DIRECTORY ARCHIVE OUT builds in OUT and leaves the packages in OUT/pkg.
startdir=$3/start srcdir=$3/src pkgbasedir=$3/pkg
mkdir -p "$startdir" "$srcdir" "$pkgbasedir"
cp "$1"/* "$2" "$startdir"

amove() {
	for file; do
		mkdir -p "$subpkgdir/${file%/*}"
		mv "$pkgdir/$file" "$subpkgdir/${file%/*}"
	done
}

doc() {
	amove usr/share/man
}

openrc() {
	amove etc/conf.d etc/init.d
}

bashcomp() {
	amove usr/share/bash-completion/completions
}

zshcomp() {
	amove usr/share/zsh/site-functions
}

fishcomp() {
	amove usr/share/fish/vendor_completions.d
}

. "$startdir/APKBUILD"
pkgdir=$pkgbasedir/$pkgname builddir=$srcdir/$pkgname-$pkgver
for value in "$pkgname" "$pkgver" "$pkgrel" "$pkgdesc" "$url" "$arch" "$license"; do
	[ -n "$value" ]
done
[ "${#pkgdesc}" -lt 128 ]
for file in $source; do
	ln -s "$startdir/$file" "$srcdir"
	case $file in
	*.tar.gz) tar -xzf "$startdir/$file" -C "$srcdir" ;;
	*.initd) head -n 1 "$startdir/$file" | grep -qx '#!/sbin/openrc-run' ;;
	esac
done
for file in $install; do
	[ -f "$startdir/$file" ]
	echo " $subpackages " | tr -s '[:space:]' ' ' | grep -q " ${file%.*} "
done
for function in build check package; do
	cd "$builddir"
	"$function"
done
for subpkgname in $subpackages; do
	subpkgdir=$pkgbasedir/$subpkgname
	case $subpkgname in
	*-bash-completion) bashcomp ;;
	*-zsh-completion) zshcomp ;;
	*-fish-completion) fishcomp ;;
	*) "${subpkgname##*-}" ;;
	esac
done
