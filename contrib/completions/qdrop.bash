# Completion of qdrop and qdropd for bash, which needs nothing else. It is installed under both
# names, since bash-completion loads the file that is called as the command.

# Offers the words of $1. Bash's own completion of files and directories has no part in it.
_qdrop_words() {
    compopt +o default +o dirnames
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur")
}

# Sets `cur` to what is to be completed and `option` to the word before it. Fails behind `--`,
# where there are operands alone.
_qdrop_split() {
    cur=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD - 1]}
    # In --option=value, = is a word of its own.
    if [[ $cur == = ]]; then
        cur=
    elif [[ $option == = ]]; then
        option=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    local word
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        if [[ $word == -- ]]; then return 1; fi
    done
}

# Whether the receiver is still to be named.
_qdrop_needs_host() {
    local word is_value=
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        if [[ $is_value ]]; then
            # Behind = the value is still to come.
            if [[ $word != = ]]; then is_value=; fi
            continue
        fi
        case $word in
            --listen | --via) return 1 ;;
            -n | --name | --dialect | --allow | --files-from | --settle | --retry | --jobs | \
                --limit-rate | --connect-timeout | --timeout | --progress) is_value=1 ;;
            -?*) ;;
            *) return 1 ;;
        esac
    done
}

_qdrop() {
    local cur option
    if _qdrop_split; then
        case $option in
            --dialect) _qdrop_words 'name-size header-size pyqt text'; return ;;
            --progress) _qdrop_words 'auto always never'; return ;;
            --files-from) return ;;
            -n | --name | --via | --listen | --allow | --settle | --retry | --jobs | --limit-rate | \
                --connect-timeout | --timeout)
                _qdrop_words ''
                return
                ;;
        esac
        if [[ $cur == -* ]]; then
            _qdrop_words '-n --name --dialect --via --listen --allow -r --recursive --files-from -0
                --null --settle --resume --preserve --skip-existing --remove-source --dry-run --retry
                --jobs --limit-rate --connect-timeout --timeout --require-receipt --progress
                --json -q --quiet -v --verbose -h --help -V --version'
            return
        fi
    fi
    if _qdrop_needs_host; then
        _qdrop_words ''
        mapfile -t COMPREPLY < <(compgen -A hostname -- "$cur")
    fi
    # Else bash completes the name of a file.
}

_qdropd() {
    local cur option
    _qdrop_split || return 0
    case $option in
        --on-conflict) _qdrop_words 'rename replace refuse' ;;
        --log) _qdrop_words 'text json' ;;
        --exec | --exec-failed)
            _qdrop_words ''
            mapfile -t COMPREPLY < <(compgen -c -- "$cur")
            ;;
        -l | --listen | --from | --keep-open | --allow | --proxy | --max-size | --max-transfers | \
            --max-per-peer | --timeout | --keep-partial | --exec-timeout) _qdrop_words '' ;;
        *)
            if [[ $cur == -* ]]; then
                _qdrop_words '-l --listen -1 --once --from --keep-open --inetd --stdio --allow --proxy
                    --max-size --max-transfers --max-per-peer --timeout --on-conflict --subdirs
                    --keep-partial --exec --exec-failed --exec-timeout --no-sync --log -q --quiet
                    -v --verbose -h --help -V --version'
            fi
            # Else bash completes the name of a directory.
            ;;
    esac
}

complete -F _qdrop -o default qdrop
complete -F _qdropd -o dirnames qdropd
