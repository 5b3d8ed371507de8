# Completion of qdrop for fish.

# Whether the receiver is still to be named.
function __qdrop_needs_host
    set -l is_value no
    for word in (commandline -opc)[2..-1]
        if test $is_value = yes
            set is_value no
            continue
        end
        switch $word
            case --listen '--listen=*' --via '--via=*'
                return 1
            case -n --name --dialect --allow --files-from --settle --retry --jobs --limit-rate --connect-timeout --timeout --progress
                set is_value yes
            case '-?*'
            case '*'
                return 1
        end
    end
end

complete -c qdrop -n __qdrop_needs_host -f -a '(__fish_print_hostnames)' -d Receiver
complete -c qdrop -s n -l name -x -d 'Send under this name'
complete -c qdrop -l dialect -x -a 'name-size header-size pyqt text' -d 'Which Qt receivers to speak to'
complete -c qdrop -l via -x -d 'Send through a command, such as ssh'
complete -c qdrop -l listen -x -d 'Send each file to the next receiver that connects'
complete -c qdrop -l allow -x -d 'With --listen, send only to this network'
complete -c qdrop -s r -l recursive -d 'Send directories'
complete -c qdrop -l files-from -r -d 'Send the files that a file names'
complete -c qdrop -s 0 -l null -d 'The names of --files-from end with a zero byte'
complete -c qdrop -l settle -x -d 'Leave out files that changed less than this ago'
complete -c qdrop -l resume -d 'Resume an interrupted transfer'
complete -c qdrop -l preserve -d 'Keep the modification time'
complete -c qdrop -l skip-existing -d 'Skip files that the receiver has'
complete -c qdrop -l remove-source -d 'Remove each file when its receipt has come'
complete -c qdrop -l dry-run -d 'Print what would be sent, and send nothing'
complete -c qdrop -l retry -x -d 'Retry temporary failures up to N times'
complete -c qdrop -l jobs -x -d 'Send up to N files in parallel'
complete -c qdrop -l limit-rate -x -d 'Bytes per second (K, M, G, T)'
complete -c qdrop -l connect-timeout -x -d 'Give up on an address that does not answer'
complete -c qdrop -l timeout -x -d 'Give up on a receiver that is silent'
complete -c qdrop -l require-receipt -d 'Fail if there is no receipt'
complete -c qdrop -l progress -x -a 'auto always never' -d 'Show a progress bar'
complete -c qdrop -l json -d 'Print one JSON object for each file'
complete -c qdrop -s q -l quiet -d 'Print only errors'
complete -c qdrop -s v -l verbose -d 'Also print what is being done'
complete -c qdrop -s h -l help -d 'Print a summary of the options'
complete -c qdrop -s V -l version -d 'Print the version'
