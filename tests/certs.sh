#!/bin/bash
# Certificates for tests: certs.sh DIR [VM]: folders for --tls-dir, of hosts of that VM, "vm" if none is named.
set -eu
umask 022 # others may read a certificate, not change it
mkdir -p "$1"
cd "$1"
vm=${2:-vm}

authority() { # NAME
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.pem" \
		-days 30 -subj "/CN=$1" 2> /dev/null
}

host() { # FOLDER AUTHORITY DAYS NAMES
	mkdir -p "$1"
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1/key.pem" -subj "/CN=$1" \
		-addext "subjectAltName=$4" -out "$1/request" 2> /dev/null
	openssl x509 -req -in "$1/request" -CA "$2.pem" -CAkey "$2.key" -copy_extensions copy -days "$3" \
		-out "$1/cert.pem" 2> /dev/null
	cp "$2.pem" "$1/ca.pem"
	chmod 600 "$1/key.pem"
	rm "$1/request"
}

authority ca
authority other
all="URI:ftvmm:$vm/primary,URI:ftvmm:$vm/secondary,URI:ftvmm:$vm/source,URI:ftvmm:$vm/destination"
host a ca 30 "$all"
host b ca 30 "$all"
host any ca 30 "${all//:$vm\//:*/}"
host stranger other 30 "$all"
host expired ca -1 "$all"
host primary ca 30 "URI:ftvmm:$vm/primary"
# The same words as another kind of name are none.
host web ca 30 "DNS:www.example.org,DNS:ftvmm:$vm/primary,DNS:ftvmm:$vm/secondary"
