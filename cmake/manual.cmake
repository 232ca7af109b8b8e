# SPDX-License-Identifier: Apache-2.0
# `cmake -DCLI=moeblock -DTO=folder -P` of this file: the command line prints its man pages and its bash completion
# into folder/man and folder/completion. Which commands there are stands on the page of the program itself.

# Writes what `moeblock ARGN` prints to TO/path.
function(print_to path)
    get_filename_component(folder ${TO}/${path} DIRECTORY)
    file(MAKE_DIRECTORY ${folder})
    execute_process(COMMAND ${CLI} ${ARGN} OUTPUT_FILE ${TO}/${path} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE ${TO}/man)
print_to(completion/moeblock --completion)
print_to(man/moeblock.1 --man)
file(STRINGS ${TO}/man/moeblock.1 commands REGEX "^\\.BR moeblock.*-[a-z]+ \\(1\\)$")
foreach(command ${commands})
    string(REGEX REPLACE "^.*-([a-z]+) .*$" "\\1" command ${command})
    print_to(man/moeblock-${command}.1 --man ${command})
endforeach()
